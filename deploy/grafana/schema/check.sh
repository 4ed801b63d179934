#!/usr/bin/env bash
# Holds deploy/grafana/dashboards/*.json against the types of Grafana (npm package @grafana/schema): check.sh FOLDER, where npm installs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
if [ ! -d node_modules/@grafana/schema ] || [ ! -d node_modules/typescript ]; then
  npm install --no-audit --no-fund --no-save --prefix . @grafana/schema@12.4.11 typescript@5.9.3
fi
rm -f -- *.ts
cp "$here/types.ts" .
for file in "$here"/../dashboards/*.json; do
  { echo "import type { Board } from './types'; export const board: Board ="; cat "$file"; } >"$(basename "$file" .json).ts"
done
node_modules/.bin/tsc --noEmit --strict --skipLibCheck --target es2022 --module esnext --moduleResolution bundler ./*.ts
echo "$(ls "$here"/../dashboards/*.json | wc -l) dashboards are what @grafana/schema $(node -p "require('@grafana/schema/package.json').version") describes"
