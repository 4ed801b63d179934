// What the dashboards are held against: Grafana's own types. Its enumerations are taken by their values, since JSON has no names for them.
import type * as g from '@grafana/schema';
import type { FieldConfig as TimeSeries, Options as TimeSeriesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as BarGaugeOptions } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { FieldConfig as Heatmap, Options as HeatmapOptions } from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type { FieldConfig as States, Options as StatesOptions } from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type { FieldConfig as Table, Options as TableOptions } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';

type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? number extends T
      ? number
      : `${T}` extends `${infer N extends number}`
        ? N
        : never
    : T extends boolean | null | undefined
      ? T
      : T extends object
        ? { [K in keyof T]: Plain<T[K]> }
        : T;

// @grafana/schema leaves queries to the data sources: this is the part of @grafana/prometheus that is used.
interface Query {
  refId: string;
  datasource: g.DataSourceRef;
  editorMode: 'code' | 'builder';
  expr: string;
  legendFormat: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  range: boolean;
}
interface PrometheusVariable {
  definition?: string;
}
interface PrometheusAnnotation {
  expr?: string;
  step?: string;
  titleFormat?: string;
  textFormat?: string;
  tagKeys?: string;
  useValueForTime?: boolean;
}

type Rest = Omit<g.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & { targets: Query[]; title: string; description: string };
type Of<Kind extends string, Options, Custom> = Rest & {
  type: Kind;
  options: Options;
  fieldConfig: Omit<g.FieldConfigSource, 'defaults'> & { defaults: Omit<g.FieldConfig, 'custom'> & { custom: Partial<Custom> } };
};
type None = Record<string, never>;
type Panel =
  | Of<'timeseries', Omit<TimeSeriesOptions, 'timezone'>, TimeSeries>
  | Of<'stat', StatOptions, None>
  | Of<'bargauge', BarGaugeOptions, None>
  | Of<'heatmap', HeatmapOptions, Heatmap>
  | Of<'state-timeline', StatesOptions, States>
  | Of<'table', TableOptions, Table>
  | g.RowPanel;

export type Board = Plain<
  Omit<g.Dashboard, 'panels' | 'annotations' | 'templating'> & {
    panels: Panel[];
    templating: { list: Array<g.VariableModel & PrometheusVariable> };
    annotations: { list: Array<g.AnnotationQuery & PrometheusAnnotation> };
  }
>;
