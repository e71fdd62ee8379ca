using System.Text.Json;
using System.Text.Json.Nodes;
using Google.Protobuf;
using Spectre.Console;

namespace FramePin.Cli;

/// <summary>Prints answers as tables for people or JSON for programs.</summary>
internal sealed class Output(bool isJson)
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public bool IsJson => isJson;

    /// <summary>The command did its work and found something wrong: it ends with 1.</summary>
    public bool HasFindings { get; set; }

    /// <summary>A message: all of it as JSON, or the given rows as a table.</summary>
    public void Write(IMessage message, params (string Name, string Value)[] rows)
    {
        if (isJson)
        {
            Console.WriteLine(JsonNode.Parse(JsonFormatter.Default.Format(message))!.ToJsonString(Indented));
            return;
        }

        var table = new Table().Border(TableBorder.None).HideHeaders().AddColumns("", "");
        foreach (var (name, value) in rows) table.AddRow(Markup.Escape(name), Markup.Escape(value));
        AnsiConsole.Write(table);
    }

    public void WriteTable(IMessage message, string[] columns, IEnumerable<string[]> rows)
    {
        if (isJson)
        {
            Write(message);
            return;
        }

        var table = new Table().Border(TableBorder.Simple);
        foreach (var column in columns) table.AddColumn(Markup.Escape(column));
        foreach (var row in rows) table.AddRow([.. row.Select(Markup.Escape)]);
        AnsiConsole.Write(table);
    }

    public static void WriteJson<T>(T value) => Console.WriteLine(JsonSerializer.Serialize(value, Indented));
}
