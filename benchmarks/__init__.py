"""What the packed engine costs, beside the protocol's own loop and the libraries of the field.

    python -m benchmarks check          every contestant agrees on a tiny model
    python -m benchmarks run [JOB ...]  time, count and weigh; adds to results.json
    python -m benchmarks report         results.json to docs/benchmarks.md and its picture

Models have random weights and the shapes of published ones: speed does not depend on training.
Modules:

    subjects.py  models and prompts        cells.py    the lesions of a sweep, in plain numbers
    peers/       who takes part            timing.py   in turn, medians
    floor.py     fewest operations         counting.py operations that were done
    memory.py    peak above the model      results.py  what a job found, as JSON
    sizing.py    GPU-hours, from shapes
    jobs/        what is measured          report.py, picture.py, table.py   docs/benchmarks.md
"""
