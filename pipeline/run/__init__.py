"""One call of the main job: its record, its attempts, its watch, and errors in one line. No Ray here."""
