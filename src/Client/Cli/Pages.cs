namespace FramePin.Cli;

/// <summary>Answers of List calls, asked for page by page.</summary>
internal static class Pages
{
    /// <summary>page_size_max of the daemon.</summary>
    public const uint Largest = 1000;

    /// <summary>Asks for every page and adds each to the first.</summary>
    /// <param name="ask">Asks for the page of a token.</param>
    /// <param name="next">Token of the page behind an answer; empty when there is none.</param>
    /// <param name="add">Adds the entries of a later answer to the first.</param>
    public static async Task<T> AllAsync<T>(Func<string, Task<T>> ask, Func<T, string> next, Action<T, T> add)
    {
        var all = await ask("");
        for (var token = next(all); token.Length > 0;)
        {
            var page = await ask(token);
            add(all, page);
            token = next(page);
        }

        return all;
    }
}
