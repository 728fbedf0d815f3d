"""Value objects that cross stage borders."""
