"""What a cluster costs once: a handshake, an opened secret."""

import ssl


def test_a_second_delivery_makes_no_handshake_and_opens_no_secret(
    database, make_instance, deploy, monkeypatch
):
    from odoo.addons.vworkspace_push import sealing

    first, second = make_instance(name="first"), make_instance(name="second")
    handshakes = counted(monkeypatch, ssl.SSLContext, "wrap_socket")
    openings = counted(monkeypatch, sealing, "unseal")

    deploy(first)
    assert len(handshakes) == 1
    assert len(openings) == 1
    deploy(second)

    assert database.read(second, "delivery_state") == "applied"
    assert len(handshakes) == 1
    assert len(openings) == 1


def counted(monkeypatch, owner, name):
    """Let calls of a function pass, and return the list that grows with each."""
    calls = []
    real = getattr(owner, name)

    def spy(*args, **kwargs):
        calls.append(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, spy)
    return calls
