"""Find out how the code of a network must be read and changed so that most of its widths shrink."""
