"""A tracker of moving things whose sensors may lie.

Modules:
    tracker: the Pyro module, and what a user calls.
    track: its result. ledger: what was refused.
    dynamics, measurements, sensors: how targets move, what sensors report, how they
        fail; users write their own.
    runs: the step as a pure function of tensors.
    evidence: the likelihood of the reports, for fits of the tracker's numbers.
"""
