using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Numerics;

namespace FramePin.Cli;

/// <summary>
/// Options and arguments that are numbers. Each has a range, and a value outside is an error of usage that names it.
/// </summary>
internal static class Numbers
{
    /// <summary>An option with a number from <paramref name="least"/> to <paramref name="most"/>.</summary>
    public static Option<T> Option<T>(
        string name, string description, T usual, T least, T most, params string[] aliases) where T : INumber<T> =>
        new(name, aliases)
        {
            Description = Text($"{description} {least} to {most}."),
            DefaultValueFactory = _ => usual,
            CustomParser = result => Parse(result, name, least, most),
        };

    /// <summary>An option with a number in a range, or none.</summary>
    public static Option<T?> Optional<T>(string name, string description, T least, T most)
        where T : struct, INumber<T> =>
        new(name)
        {
            Description = Text($"{description} {least} to {most}."),
            CustomParser = result => Parse(result, name, least, most),
        };

    /// <summary>An argument with a number from <paramref name="least"/> to <paramref name="most"/>.</summary>
    public static Argument<T> Argument<T>(string name, string description, T least, T most) where T : INumber<T> =>
        new(name) { Description = description, CustomParser = result => Parse(result, name, least, most) };

    private static T Parse<T>(ArgumentResult result, string name, T least, T most) where T : INumber<T>
    {
        var text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        const NumberStyles styles = NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint;
        // A comparison with NaN is false, so that it is no number of any range.
        if (T.TryParse(text, styles, CultureInfo.InvariantCulture, out var value) && value >= least && value <= most)
            return value;
        var kind = T.IsInteger(least) && typeof(T) != typeof(double) ? "whole number" : "number";
        result.AddError(Text($"{name}: '{text}' is no {kind} from {least} to {most}"));
        return least;
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
