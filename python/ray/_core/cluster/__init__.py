"""Clusters of standing nodes: how they are started, found, joined and ended (docs/design/011). A plain `ray.init()` needs only the doors."""
