"""The two kinds of values that data and models exchange: pixels and captions."""
