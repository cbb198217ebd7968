"""PostgreSQL: one statement for each thing that happens, guarded so that nothing happens twice."""
