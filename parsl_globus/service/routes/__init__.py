"""REST routes: parse, call the rule, answer."""
