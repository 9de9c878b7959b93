"""The row that travels, and the stages as functions of tables: decode, propose, predict, refine, write. No Ray here."""
