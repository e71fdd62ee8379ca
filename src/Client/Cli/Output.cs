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

    /// <summary>
    /// A name in a table: its last segment on a terminal, where room is short and people read; all of it elsewhere,
    /// where programs do.
    /// </summary>
    public static string Name(string name) =>
        Console.IsOutputRedirected || name.Length == 0 ? name : name[(name.LastIndexOf('/') + 1)..];

    /// <summary>A message: all of it as JSON, or the given rows as a table.</summary>
    public void Write(IMessage message, params (string Name, string Value)[] rows) => Write(message, null, rows);

    /// <summary>The same, with a change to the JSON before it is printed.</summary>
    public void Write(IMessage message, Action<JsonObject>? change, (string Name, string Value)[] rows)
    {
        if (isJson)
        {
            var json = JsonMessages.ToJson(message);
            change?.Invoke(json);
            Console.WriteLine(json.ToJsonString(Indented));
            return;
        }

        Print(null, rows.Select(row => new[] { row.Name, row.Value }));
    }

    public void WriteTable(
        IMessage message, string[] columns, IEnumerable<string[]> rows, Action<JsonObject>? change = null)
    {
        if (isJson) Write(message, change, []);
        else Print(columns, rows);
    }

    public static void WriteJson<T>(T value) => Console.WriteLine(JsonSerializer.Serialize(value, Indented));

    /// <summary>A table. On a terminal it is fitted to the width; elsewhere each row is one line.</summary>
    public static void Print(string[]? columns, IEnumerable<string[]> rows)
    {
        var shown = rows.Select(row => row.Select(Values.Show).ToArray()).ToList();
        if (Console.IsOutputRedirected)
        {
            if (columns is not null) shown.Insert(0, columns);
            PrintLines(shown);
            return;
        }

        var table = new Table().Border(columns is null ? TableBorder.None : TableBorder.Simple);
        if (columns is null) table.HideHeaders().AddColumns("", "");
        else foreach (var column in columns) table.AddColumn(Markup.Escape(column));
        foreach (var row in shown) table.AddRow([.. row.Select(Markup.Escape)]);
        AnsiConsole.Write(table);
    }

    private static void PrintLines(List<string[]> rows)
    {
        var widths = new List<int>();
        foreach (var row in rows)
            for (var i = 0; i < row.Length; i++)
                if (i == widths.Count) widths.Add(row[i].Length);
                else widths[i] = Math.Max(widths[i], row[i].Length);
        foreach (var row in rows)
            Console.WriteLine(string.Join("  ", row.Select((cell, i) => cell.PadRight(widths[i]))).TrimEnd());
    }
}
