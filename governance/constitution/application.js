// Actions on the JavaScript application.

const POLICIES = ["user_cert", "member_cert", "any_cert", "jwt", "user_cose_sign1", "member_cose_sign1", "no_auth"];
const METHODS = /^(get|post|put|delete|patch|head|options)$/i;

const ENDPOINT = fields(
  {
    js_module: filled,
    js_function: filled,
    mode: choice("readwrite", "readonly", "historical"),
    forwarding_required: optional(choice("sometimes", "always", "never")), // where it is left out, always
    redirection_strategy: optional(choice("none", "to_primary", "to_backup")),
    authn_policies: each(either(choice(...POLICIES), fields({ all_of: each(choice(...POLICIES), { least: 1 }) }))),
    openapi: optional(data),
    openapi_hidden: optional(flag),
    interpreter_reuse: optional(fields({ key: text() })),
  },
  { others: true }, // tools that make bundles add their own
);

const BUNDLE = fields({
  metadata: fields(
    {
      endpoints: under(
        matching(/^\//, "a path that begins with /"),
        under(matching(METHODS, "an HTTP method such as get"), ENDPOINT),
      ),
    },
    { others: true },
  ),
  modules: each(
    fields({
      name: matching(/^[^/]/, "a path that does not begin with /"),
      module: text({ called: "the text of a module" }),
    }),
  ),
});

// What an engine would say of modules at their first request, said before anybody votes; of as much as compiles well within the time that
// a proposal has, which is all that a service takes whose operators have not raised its limit.
const COMPILED_CHARACTERS_MAX = 1 << 20;

function unloadable(modules) {
  if (modules.reduce((sum, { module }) => sum + module.length, 0) > COMPILED_CHARACTERS_MAX) return [];
  try {
    ccf.gov?.checkModules?.(modules); // ours; CCF finds out when it applies the proposal
    return [];
  } catch (error) {
    return [`bundle.modules: ${error.message}`];
  }
}

function endpointsOf(bundle) {
  return Object.entries(bundle.metadata.endpoints).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, endpoint]) => ({ name: `${method.toUpperCase()} ${path}`, endpoint })),
  );
}

define("set_js_app", {
  args: { bundle: BUNDLE, disable_bytecode_cache: optional(flag) },
  check({ bundle, disable_bytecode_cache }) {
    const names = bundle.modules.map((module) => module.name);
    const twice = names.filter((name, position) => names.indexOf(name) < position);
    return [
      ...twice.map((name) => `bundle.modules: ${name} is there twice`),
      ...endpointsOf(bundle)
        .filter(({ endpoint }) => !names.includes(endpoint.js_module))
        .map(
          ({ name, endpoint }) =>
            `bundle.metadata.endpoints: ${name} is in module ${endpoint.js_module}, but there are ${listed(names)}`,
        ),
      ...(disable_bytecode_cache ? [] : unloadable(bundle.modules)), // CCF compiles nothing then, either
    ];
  },
  apply({ bundle, disable_bytecode_cache }) {
    clear(MODULES, ENDPOINTS);
    bundle.modules.forEach(({ name, module }) => writeText(MODULES, `/${name}`, module));
    if (disable_bytecode_cache) clear(MODULES_BYTECODE, MODULES_BYTECODE_VERSION);
    else ccf.refreshAppBytecodeCache();
    writeJson(INTERPRETER_FLUSH, undefined, true);
    for (const { name, endpoint } of endpointsOf(bundle)) {
      writeJson(ENDPOINTS, name, { ...endpoint, js_module: `/${endpoint.js_module}` });
    }
  },
});

define("remove_js_app", {
  apply: () => clear(MODULES, MODULES_BYTECODE, MODULES_BYTECODE_VERSION, INTERPRETER_FLUSH, ENDPOINTS),
});

define("refresh_js_app_bytecode_cache", { apply: () => ccf.refreshAppBytecodeCache() });

define("set_js_runtime_options", {
  args: {
    max_heap_bytes: optional(whole(1)),
    max_stack_bytes: optional(whole(1)),
    max_execution_time_ms: optional(whole(1)),
    log_exception_details: optional(flag),
    return_exception_details: optional(flag),
    max_cached_interpreters: optional(whole(0)),
  },
  apply: (args) => writeJson(RUNTIME_OPTIONS, undefined, args),
});
