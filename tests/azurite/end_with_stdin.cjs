// Loaded before Azurite: the server ends when whoever started it has ended.
process.stdin.resume().on("end", () => process.exit(0));
