"""A run's report, OUTPUT/run/report.html: `facts`, counted from the output (`gather`), laid out (`render`)."""
