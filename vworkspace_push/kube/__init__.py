"""The Kubernetes side of the addon: pure Python that imports no Odoo.

resources    the three kinds: names, labels, building manifests, reading status
strict_yaml  YAML text of untrusted origin, read narrowly
values       chart values as YAML text
ownership    managedFields and conflicts: who owns which field
errors       what went wrong, whether to retry, what a person can do about it
content      bodies and JSON within bounds
address      which addresses may be connected to
certificates what certificates say, and whether a key fits
connection   one API server: TLS, token, timeouts, limits; JSON in, JSON out
apply        server-side apply, get, list, and delete with a precondition
reflector    list, watch, relist, for ever, interruptible
tokens       service-account tokens: checked, read, renewed, from a file
kubeconfig   an untrusted kubeconfig → what a connection needs, by allow-list
access       the rights to grant, and what a server says of itself and of us
reviews      what a credential may do, as the server says it
verify       the checklist: is the cluster ready, is the credential what it should be

Modules import only those above them. Nothing here is global: all that a function
needs is passed in. `_transport` is imported by a connection when it is made.
"""
