"""Hostile bytes: what is fuzzed, by which law, and how; for `scripts/fuzz` and for the tests in `tests/hostile`.

`laws` says what a target is, `bounds` what one input may cost, `mutation` how inputs are changed, `catalogue` what there is, `running` does
it. Every other module makes the targets of one part of the house.
"""
