"""HTTP API and web page: `app.create_app`, `server.run`, `api_keys.KeyFile`. Importing it loads no torch."""
