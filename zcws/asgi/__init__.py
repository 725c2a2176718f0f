"""zcws for ASGI servers: uvicorn.py, one flag of uvicorn's."""
