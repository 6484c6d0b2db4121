"""A simulated operator: stands in for what runs inside a managed cluster.

It refuses by a real admission webhook, reconciles application instances and
operations into statuses, and keeps the Cluster object's heartbeat, as contract §1 to
§4 say. It can be told to misbehave. It shares no code with the addon, so that each
checks the other. Run it with ``python -m environment.operator``; see README.md.
"""

from .manifests import operator_manifests
