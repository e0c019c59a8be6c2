"""The vocabulary: operands and operators, one file per family; each file only declares."""
