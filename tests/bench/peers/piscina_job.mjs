// The job of piscina.mjs.
export default (value) => value;
