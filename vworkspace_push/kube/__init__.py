"""The Kubernetes side of the addon: pure Python that imports no Odoo.

resources    the three kinds: names, labels, building manifests, reading status
values       chart values as YAML text, read safely
ownership    managedFields and conflicts: who owns which field
errors       what went wrong, whether to retry, what a person can do about it
content      bodies and JSON within bounds
connection   one API server: TLS, token, timeouts, limits; JSON in, JSON out
apply        server-side apply, get, list, and delete with a precondition
reflector    list, watch, relist, for ever, interruptible
access       the rights to grant, and what a server says of itself and of us

Modules import only those above them. Nothing here is global: all that a function
needs is passed in. `_transport` is imported by a connection when it is made.
"""
