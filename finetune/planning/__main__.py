"""`python -m finetune.planning [PARAMS_FILE]`: estimate what a run costs before it starts."""

from finetune.planning.plan import main
from finetune.stage import run_stage

if __name__ == "__main__":
    run_stage(main)
