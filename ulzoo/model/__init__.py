"""UnifiedLatents: what it promises, what it is made of and what it minimises."""
