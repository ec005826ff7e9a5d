"""The fault campaign: small studies are killed, damaged and given a full disk, and must recover.

`make test-faults` runs it (docs/reliability.md). The campaign does not know how a stage works: a
study is a list of commands, and its outputs are compared with those of an undisturbed study.
"""
