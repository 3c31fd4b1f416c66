// A small JSON API without dependencies. It listens where Windlass tells it to.
const http = require("node:http");

const server = http.createServer((request, response) => {
  if (request.url === "/healthz") {
    response.end("ok");
    return;
  }
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ hello: "node", path: request.url, greeting: process.env.GREETING ?? null }));
});

server.listen(process.env.PORT, process.env.HOST, () => console.log(`listening on ${process.env.PORT}`));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
