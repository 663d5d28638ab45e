/** JSON schema of a config file, for editors and `concordkv config schema`. Threads: any. */
import { z } from 'zod';
import { CONFIG_KEYS } from './keys.js';
import { CHANGE_TEXT, SCHEMA_KEY, configSchema } from './schema.js';
import { DURATION_PATTERN, SIZE_PATTERN } from './text.js';

/** The schema of what a file may hold: sizes and times may have units there. */
export function configJsonSchema(): Record<string, unknown> {
  const bySchema = new Map(CONFIG_KEYS.map((entry) => [entry.schema, entry]));
  const json = z.toJSONSchema(configSchema, {
    io: 'input',
    override({ zodSchema, jsonSchema }) {
      const entry = bySchema.get(zodSchema as unknown as z.ZodType);
      if (entry === undefined) return;
      const { default: defaultValue, ...type } = jsonSchema;
      for (const name of Object.keys(jsonSchema)) delete (jsonSchema as Record<string, unknown>)[name];
      const unit = entry.kind === 'bytes' ? SIZE_PATTERN : entry.kind === 'ms' ? DURATION_PATTERN : undefined;
      Object.assign(jsonSchema, {
        description: `${entry.description}. Changes: ${CHANGE_TEXT[entry.changes]}.`,
        ...(unit === undefined ? type : { anyOf: [...(type.anyOf ?? [type]), { type: 'string', pattern: unit }] }),
        ...(defaultValue !== undefined && entry.unset === undefined && { default: defaultValue }),
      });
    },
  }) as Record<string, unknown>;
  const properties = json['properties'] as Record<string, unknown>;
  return {
    ...json,
    title: 'ConcordKV configuration',
    properties: { [SCHEMA_KEY]: { type: 'string', description: 'where this schema is' }, ...properties },
  };
}
