"""Score a whole data set: read it in parts, answer each part, keep what is finished."""
