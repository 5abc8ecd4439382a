"""`fake_engine.py` under the flags that LMDeploy's server has for its port."""

import runpy
import sys
from pathlib import Path

at = sys.argv.index("--server-port")
sys.argv[at] = "--port"
runpy.run_path(str(Path(__file__).with_name("fake_engine.py")), run_name="__main__")
