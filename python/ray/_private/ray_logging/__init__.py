"""Import paths of Ray's logging. Re-exports only."""
