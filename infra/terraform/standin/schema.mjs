// Reads the generated bindings and prints what each resource looks like: attributes and blocks, by Terraform's names.
// node schema.mjs <lib folder of @cdktf/provider-azurerm> <kind:type>…   (kind: resource, data, provider)
import { readFileSync } from "node:fs";

const [lib, ...wanted] = process.argv.slice(2);
const plain = (name) => name.replace(/_/g, "").toLowerCase();

// Each interface of the declarations: property → optional, and its type.
function interfaces(declarations) {
  const found = {};
  for (const [, name, body] of declarations.matchAll(/export interface (\w+)(?: extends [\w.]+)? \{([\s\S]*?)\n\}/g)) {
    const text = body.replace(/\/\*\*[\s\S]*?\*\//g, "");
    found[name] = {};
    for (const [, property, optional, type] of text.matchAll(/readonly (\w+)(\?)?: ([^;{]+|\{[\s\S]*?\});/g)) {
      found[name][property] = { optional: Boolean(optional), type: type.replace(/\s+/g, " ").trim() };
    }
  }
  return found;
}

// Each function that writes HCL: Terraform's name → whether it is a block, and of what type.
function written(code) {
  const found = {};
  const functions = /(?:function (\w+)ToHclTerraform\(struct[^)]*\)|synthesizeHclAttributes\(\)) \{[\s\S]*?const attrs = \{([\s\S]*?)\n\s*\};\n/g;
  for (const [, name, body] of code.matchAll(functions)) {
    const attributes = (found[name ?? "$main"] = {});
    for (const [, attribute, block, type, storage] of body.matchAll(/^\s+(\w+): \{\n\s+value: [\s\S]*?isBlock: (true|false),\n\s+type: "(\w+)",\n\s+storageClassType: "(\w+)",/gm)) {
      attributes[attribute] = { block: block === "true", type, storage };
    }
  }
  return found;
}

const SIMPLE = { string: "string", number: "number", boolean: "bool" };
const GETTERS = { String: "string", Number: "number", Boolean: "bool", List: ["list", "string"], StringMap: ["map", "string"] };

function terraformType({ type, storage }) {
  if (SIMPLE[storage]) return SIMPLE[storage];
  if (storage === "stringMap") return ["map", "string"];
  const of = storage === "numberList" ? "number" : "string";
  return [type === "set" ? "set" : "list", of];
}

function read(kind, type) {
  const name = type.replace(/^azurerm_/, "").replace(/_/g, "-");
  const folder = kind === "provider" ? "provider" : kind === "data" ? `data-azurerm-${name}` : name;
  const declarations = readFileSync(`${lib}/${folder}/index.d.ts`, "utf8");
  const code = readFileSync(`${lib}/${folder}/index.js`, "utf8");
  const [properties, functions] = [interfaces(declarations), written(code)];
  const className = /export declare class (\w+) extends cdktf\.Terraform(?:Resource|DataSource|Provider)/.exec(declarations)[1];

  const level = (interfaceName, functionName) => {
    const known = properties[interfaceName] ?? {};
    const tree = { attributes: {}, blocks: {} };
    for (const [attribute, one] of Object.entries(functions[functionName] ?? {})) {
      const property = known[Object.keys(known).find((key) => plain(key) === plain(attribute))];
      if (!property) throw new Error(`${type}: ${attribute} has no property in ${interfaceName}`);
      if (!one.block) {
        tree.attributes[attribute] = { type: terraformType(one), required: !property.optional };
        continue;
      }
      const blockType = property.type.replace(/\| cdktf\.IResolvable/g, "").trim();
      const many = blockType.endsWith("[]");
      const inner = blockType.replace(/\[\]$/, "");
      const nesting = one.type === "struct" || attribute === "timeouts" ? "single" : one.type;
      tree.blocks[attribute] = { ...level(inner, inner[0].toLowerCase() + inner.slice(1)), nesting, min: property.optional ? 0 : 1, max: many ? 0 : 1 };
    }
    return tree;
  };
  const tree = level(`${className}Config`, "$main");
  const body = code.slice(code.indexOf(`class ${className} extends`));
  // What can only be read.
  for (const [, getter, attribute] of body.matchAll(/get \w+\(\) \{\s+return (?:cdktf\.Fn\.\w+\()?this\.get(String|Number|Boolean|List|StringMap)\w*Attribute\('(\w+)'\)/g)) {
    tree.attributes[attribute] ??= { type: GETTERS[getter], computed: true };
  }
  for (const [, inner, attribute] of body.matchAll(/this\._\w+ = new (\w+?)(?:List)?\(this, "(\w+)"/g)) {
    if (tree.attributes[attribute] || tree.blocks[attribute]) continue;
    const start = code.indexOf(`class ${inner}OutputReference extends`);
    const fields = {};
    for (const [, getter, field] of code.slice(start, code.indexOf("\nexports.", start)).matchAll(/get \w+\(\) \{\s+return (?:cdktf\.Fn\.\w+\()?this\.get(String|Number|Boolean|List)\w*Attribute\('(\w+)'\)/g)) {
      fields[field] = GETTERS[getter];
    }
    tree.attributes[attribute] = { type: ["list", ["object", fields]], computed: true };
  }
  // Set by the platform, whatever the bindings offer.
  if (kind !== "provider") tree.attributes.id = { type: "string", computed: true };
  return tree;
}

const schemas = {};
for (const one of wanted) {
  const [kind, type] = one.split(":");
  schemas[one] = read(kind, type);
}
console.log(JSON.stringify(schemas));
