"""How fast the generated app is, measured side by side with a bare app, its floors and its peers."""
