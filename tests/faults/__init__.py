"""The fault campaign: small studies are killed, damaged and given a full disk; then the same
command must put all right.

`make test-faults` runs it (docs/reliability.md). Nothing here knows how a stage works: a study is a
list of commands, and what they leave is compared with what undisturbed ones leave.
"""
