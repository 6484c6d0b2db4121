from odoo import models
from odoo.exceptions import UserError

from .. import const
from ..kube import apply
from ..kube.errors import (
    AddressRefused,
    KubeError,
    TlsFailed,
    Unauthorized,
    Unreachable,
)
from ..sealing import SealingError

# What asking a cluster may end in; `kube.errors.describe` has a sentence for each.
CALL_ERRORS = (KubeError, SealingError, UserError, ValueError)
# Whatever ends like this for one object ends so for all of the cluster.
OF_THE_CLUSTER = (AddressRefused, TlsFailed, Unauthorized, Unreachable)


class VworkspaceWizard(models.AbstractModel):
    """What the dialogs have in common.

    Our own code makes them, with what the cluster answered; nobody can make one by RPC
    or change what it says, only what it asks for.
    """

    _name = "vworkspace.wizard"
    _description = "Dialog"
    _inherit = ["vworkspace.protected.mixin"]

    def _make(self, values):
        """Create the dialog of the current user, and return it with the user's rights.

        :param dict values: of its fields, the protected ones as well
        """
        return self.browse(self._writer().create(values).id)

    def _open(self, title, *, size="large"):
        """Return the action that shows the dialog.

        :param str size: small, medium, large or extra-large
        """
        return self._get_records_action(
            name=title, target="new", context={"dialog_size": size}
        )


def look(instance):
    """Ask the cluster what deploying the form as it stands would do; change nothing.

    :rtype: kube.apply.Preview
    :raise Exception: one of `CALL_ERRORS`
    """
    manifest = instance._signed(instance._build_manifest())
    is_gone = instance.delivery_state == "deleted"
    return apply.preview(
        instance.cluster_id._connection(),
        instance._resource,
        manifest,
        uid=None if is_gone else instance.uid or None,
        timeout=const.DELIVERY_TIMEOUT,
    )


def read_live(instance):
    """Return the object of that name as the cluster has it now.

    :raise Exception: one of `CALL_ERRORS`
    """
    return apply.get(
        instance.cluster_id._connection(),
        instance._resource,
        instance.name,
        instance.namespace_id.name,
        timeout=const.DELIVERY_TIMEOUT,
    )
