"""Import paths of Ray's own parts that known programs use. Re-exports only."""
