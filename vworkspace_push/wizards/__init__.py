from . import vworkspace_wizard
from . import vworkspace_preview
from . import vworkspace_conflict_wizard
from . import vworkspace_delete_wizard
from . import vworkspace_forget_wizard
from . import vworkspace_import_wizard
from . import vworkspace_copy_wizard
from . import vworkspace_adopt_wizard
