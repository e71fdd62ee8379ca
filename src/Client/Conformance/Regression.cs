using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Conformance;

/// <summary>
/// A script with what a kernel answered to it, as a text file: it runs on FramePin alone, on any machine and without
/// rights.
/// </summary>
/// <param name="Profile">Name of the profile whose kernel answered.</param>
/// <param name="Initial">The process that the script began with.</param>
/// <param name="Steps">Each step with the kernel's answer.</param>
/// <param name="Look">The kernel's last snapshot.</param>
public sealed partial record Regression(
    string Profile, InitialProcess Initial, IReadOnlyList<(Step Step, string Answer)> Steps, string Look)
{
    /// <summary>The file's text.</summary>
    public string Format()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"profile {Profile}\n");
        text.Append(CultureInfo.InvariantCulture,
            $"process base=0x{Initial.MmapBase:x} brk=0x{Initial.StartBrk:x} huge={Initial.HugePages} ");
        if (Initial.DataSize != 0)
            text.Append(
                CultureInfo.InvariantCulture, $"data=0x{Initial.DataSize:x} memlock=0x{Initial.RlimitMemlock:x} ");
        if (Initial.Swap != 0) text.Append(CultureInfo.InvariantCulture, $"swap=0x{Initial.Swap:x} ");
        if (Initial.PageTableLevels != 4)
            text.Append(CultureInfo.InvariantCulture, $"levels={Initial.PageTableLevels} ");
        if (Initial.CachesZeroedHoles) text.Append("zeroed-holes=cached ");
        text.Append(CultureInfo.InvariantCulture,
            $"thp={Initial.Thp} zero-page={Initial.UsesZeroPage} missing={string.Join(',', Initial.MissingFiles)}\n");
        foreach (var mapping in Initial.Mappings)
            text.Append(CultureInfo.InvariantCulture,
                $"map {mapping.Start:x}-{mapping.End:x} {mapping.Permissions} {mapping.Offset:x} {mapping.Name}\n");
        foreach (var (step, answer) in Steps) text.Append(CultureInfo.InvariantCulture, $"step {step}\n= {answer}\n");
        foreach (var line in Look.Split('\n', StringSplitOptions.RemoveEmptyEntries))
            text.Append(CultureInfo.InvariantCulture, $"| {line}\n");
        return text.ToString();
    }

    /// <summary>
    /// Reads what <see cref="Format"/> wrote. Throws <see cref="FormatException"/> with the line that is wrong.
    /// </summary>
    public static Regression Parse(string text)
    {
        var profile = "";
        InitialProcess? initial = null;
        var mappings = new List<InitialMapping>();
        var steps = new List<(Step, string)>();
        var look = new StringBuilder();
        foreach (var line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            if (line[0] == '#') continue;
            var (word, rest) = line.Split(' ', 2) is [var w, var r] ? (w, r) : (line, "");
            switch (word)
            {
                case "profile": profile = rest; break;
                case "process": initial = ParseProcess(rest, mappings); break;
                case "map": mappings.Add(ParseMapping(rest)); break;
                case "step": steps.Add((Step.Parse(rest), "")); break;
                case "=": steps[^1] = (steps[^1].Item1, rest); break;
                case "|": look.Append(rest).Append('\n'); break;
                default: throw new FormatException($"not a line of a regression file: '{line}'");
            }
        }

        return new Regression(profile, initial ?? throw new FormatException("no process line"), steps, look.ToString());
    }

    /// <summary>Runs the script on FramePin; the first difference in words, or null.</summary>
    public string? Check()
    {
        var profile = KernelProfile.Find(Profile) ?? throw new FormatException($"no profile {Profile}");
        using var system = new FramePinSystem(profile, Initial);
        foreach (var (step, expected) in Steps)
        {
            var answer = system.Run(step);
            if (answer != expected) return $"{step}: answered {answer}, the kernel {expected}";
        }

        var findings = system.Audit();
        if (findings.Count > 0) return "audit: " + string.Join("; ", findings);
        var look = system.Look(withFlags: true, keepsNames: false);
        // Files of before show first bytes only.
        if (!RestOfPage().IsMatch(Look)) look = RestOfPage().Replace(look, "");
        return look == Look ? null : $"memory differs at the end:\nkernel:\n{Look}\nFramePin:\n{look}";
    }

    [GeneratedRegex(@"(?<==[0-9a-f]+)\+[0-9a-f]{8}")]
    private static partial Regex RestOfPage();

    private static InitialProcess ParseProcess(string text, List<InitialMapping> mappings)
    {
        var values = text.Split(' ').Select(part => part.Split('=', 2)).ToDictionary(pair => pair[0], pair => pair[1]);
        return new InitialProcess(
            mappings, Hex(values["base"][2..]), Hex(values["brk"][2..]), int.Parse(
                values["huge"], CultureInfo.InvariantCulture),
            Enum.Parse<ThpMode>(values["thp"]), bool.Parse(values["zero-page"]), IsPrivileged: true,
            [.. values["missing"].Split(',', StringSplitOptions.RemoveEmptyEntries).Select(int.Parse)])
        {
            Swap = values.TryGetValue("swap", out var swap) ? Hex(swap[2..]) : 0,
            PageTableLevels = values.TryGetValue("levels", out var levels)
                ? int.Parse(levels, CultureInfo.InvariantCulture)
                : 4,
            CachesZeroedHoles = values.ContainsKey("zeroed-holes"),
            DataSize = values.TryGetValue("data", out var data) ? Hex(data[2..]) : 0,
            RlimitMemlock = values.TryGetValue("memlock", out var memlock) ? Hex(memlock[2..]) : 8UL << 20,
        };
    }

    private static InitialMapping ParseMapping(string text)
    {
        var parts = text.Split(' ', 4);
        var range = parts[0].Split('-');
        return new InitialMapping(Hex(range[0]), Hex(range[1]), parts[1], Hex(parts[2]), parts[3]);
    }

    private static ulong Hex(string digits) =>
        ulong.Parse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
}
