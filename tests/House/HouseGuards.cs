using Xunit;

namespace FramePin.Tests.House;

/// <summary>Holds what a guard found against the list of exceptions.</summary>
internal static class HouseGuards
{
    private static readonly Lock Gate = new();

    private static readonly bool Tightens = Environment.GetEnvironmentVariable("FRAMEPIN_TIGHTEN") == "1";

    /// <summary>
    /// Fails for what is not on the list and for what the list has too much. With FRAMEPIN_TIGHTEN=1 the list is first
    /// cut down to what is needed; nothing adds to it but an editor.
    /// </summary>
    public static void Hold(string guard, IReadOnlyCollection<Finding> findings)
    {
        lock (Gate)
        {
            var list = ExceptionList.Read(Repository.Read(ExceptionList.File));
            if (Tightens)
            {
                list.Tighten(guard, findings);
                File.WriteAllText(Path.Combine(Repository.Root, ExceptionList.File), list.ToString());
            }

            var wrong = list.Judge(guard, findings);
            Assert.True(wrong.Count == 0, $"{guard}:\n{string.Join('\n', wrong)}");
        }
    }
}
