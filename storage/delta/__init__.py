"""Delta tables with one owner: log, files, deletion vectors, merges and maintenance."""
