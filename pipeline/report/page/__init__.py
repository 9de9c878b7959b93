"""What reports have in common: `base.html.j2` and its style, macros and filters; labels, settings and next steps."""
