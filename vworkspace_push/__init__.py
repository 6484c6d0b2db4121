from . import models, redaction, wizards

redaction.install()
