from . import models, redaction

redaction.install()
