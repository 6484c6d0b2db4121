"""What `make run`, `make test` and `make bench` stand on.

One harness for all of them: a private PostgreSQL, Odoo 19, a real Kubernetes
control plane and a simulated operator, each a child process of whoever asked for
it. `cache`, `progress`, `system` and `python_env` use the standard library alone,
since they run before the virtual environment exists; the rest runs inside it.
"""
