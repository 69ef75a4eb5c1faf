"""The machine under a run: memory that stays, cores that others want too, short imports."""
