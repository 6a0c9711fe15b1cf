"""What Hugging Face Spaces runs, and `python app.py` anywhere: settings, wiring, app, launch.

On ZeroGPU `chatlab.cli` imports `spaces` before torch and Gradio, and `chatlab.engines.zerogpu` uses `spaces.GPU`.
"""

import sys

from chatlab.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve"]))
