"""Copy images into one folder per label: python docs/examples/sort_a_folder.py INBOX TOKENS.safetensors SORTED [MODEL CLIP]

Images that show none of the things go to SORTED/_unknown.
"""

import shutil
import sys
from pathlib import Path

from mcti_core import calibrated_classifier, load_host, load_pocket, load_tokens

inbox, tokens_file, out, *models = sys.argv[1:]
tokens = load_tokens(tokens_file)
classifier = calibrated_classifier(
    "clip", load_host(*models) if models else load_pocket(), tokens, calibrate_threshold=True
)
paths = sorted(path for path in Path(inbox).iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
for path, answer in zip(paths, classifier(paths), strict=True):
    # Labels may contain any character; names are safe as file names.
    folder = Path(out) / ("_unknown" if answer.unknown else tokens.names[answer.index])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, folder)
    print(f"{path.name}: {folder.name} ({answer.confidence:.0%})")
