"""Parts of a Q/DQ graph that a plugin computes, found one family at a time."""
