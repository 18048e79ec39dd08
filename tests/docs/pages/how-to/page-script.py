"""Cells that the test of docs/how-to/page-script.md runs beside its blocks."""

# %% after: app = Flask(__name__)
with app.test_client().get("/user-sessions.js") as answer:
    assert answer.status_code == 200
sessions.manager.close()
