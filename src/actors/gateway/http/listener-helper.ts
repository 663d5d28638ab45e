/**
 * A process that lives for some milliseconds: takes the listening socket at descriptor 4 and sends it to its parent, which so receives
 * a descriptor of its own for the same socket. See listener.ts. Everything happens before the event loop first polls, so that this
 * process never accepts, and loses, a connection.
 */
import { createServer } from 'node:net';

const server = createServer();
server.listen({ fd: 4 });
process.send!('listener', server, {}, () => process.disconnect());
server.close();
