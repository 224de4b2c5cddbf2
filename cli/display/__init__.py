"""What the commands show: tables, progress bars, one-line messages."""
